"""The main job, end to end on real data: train, sample, measure, and show all of it on one page."""
