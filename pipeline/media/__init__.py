"""Read and write media on one clock: the only PyAV code of the pipeline.

The clock: time 0 is the presentation time of the first video frame. Frame n of the 25 fps grid is shown from n / 25 s;
audio sample k of the 16 kHz grid is heard at k / 16000 s. Both come from the presentation timestamps of their streams,
so late audio, an edit list, a negative start or a variable frame rate need no special case.
"""
