"""What a user may write: frozen tables, and the reader that turns TOML into them."""
