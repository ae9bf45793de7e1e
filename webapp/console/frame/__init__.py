"""What every page stands on: gate, roles, htmx answers, navigation, errors, templates."""
