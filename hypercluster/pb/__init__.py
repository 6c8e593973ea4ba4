"""Generated protocol buffers, one subpackage a version."""
