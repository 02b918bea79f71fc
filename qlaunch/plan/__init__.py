"""The decision: a profile and the host's facts become a plan. Pure; nothing here looks or acts."""
