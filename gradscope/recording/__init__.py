"""The facts on disk: schema, writer, reader."""
