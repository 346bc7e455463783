"""The sample data: scenes of simple shapes, drawn and written in the three formats."""
