"""One method's official code each: the names and shapes of its layers, as ours."""
