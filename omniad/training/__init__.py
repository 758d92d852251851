"""Training: the frozen encoder's features, the schedule, the loop."""

# Raise it when a change alters the numbers that training produces: finished runs are then trained again.
TRAINING_VERSION = 5
