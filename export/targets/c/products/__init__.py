"""Matrix products, convolutions, transforms and recurrent operators, written in C."""
