"""The server, the client's command, the load test and the web page."""
