"""Running code that a model wrote: in a process of its own, with little to harm. No torch."""
