"""Schedules: which worker runs which tiles when, what each waits for, where temporaries live, and the proof of it all."""
