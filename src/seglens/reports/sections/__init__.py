"""What each part of the report says, one module a section."""
