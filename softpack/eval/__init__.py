"""What a label set is worth: fidelity to the teacher, and the accuracy of a student trained on it."""
