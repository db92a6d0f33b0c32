"""Methods from the literature to compare with: one file a method, from audio `[batch, time]` to audio."""
