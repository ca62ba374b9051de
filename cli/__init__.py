"""The humandata command: one file per subcommand."""
