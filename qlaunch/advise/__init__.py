"""What a host lacks and what a first profile for it says: pure rules over facts and plans."""
