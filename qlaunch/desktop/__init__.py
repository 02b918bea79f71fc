"""A machine in the desktop's menus: the entry's text, and what of a verb's words is shown."""
