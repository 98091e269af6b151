import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the models here are too small to share a product among threads
