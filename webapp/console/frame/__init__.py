"""What every page uses: gate, roles, htmx responses, navigation, errors, templates."""
