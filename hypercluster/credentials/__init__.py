"""Names, certificates and TLS credentials of nodes and clients (SEC-1). See DESIGN.md."""
