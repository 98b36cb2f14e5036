"""Images that are made, with the truth about them: for tests, demonstrations and experiments."""
