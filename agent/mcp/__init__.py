"""The MCP server: tools and resources by which an assistant reads runs, does research and reads the docs."""
