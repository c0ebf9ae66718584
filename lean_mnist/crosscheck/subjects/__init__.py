"""The functions under test, called on copied inputs, and the nodes of the graphs that they leave."""
