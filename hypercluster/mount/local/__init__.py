"""What stays on this host of a mounted workspace (WS-56); see ../DESIGN.md."""
