"""Which codec at which settings meets a target, and curves of rate over distortion."""
