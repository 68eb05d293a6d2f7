"""The `nodewise` command; subcommands are imported when they are called."""
