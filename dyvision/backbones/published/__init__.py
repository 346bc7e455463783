"""Networks that are published with a method and are no base network with other convolutions."""
