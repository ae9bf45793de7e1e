"""The database through SQLAlchemy: engines, models, migrations, backup."""
