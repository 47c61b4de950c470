# The image of both apps. The platform mounts the repository and runs the entrypoint of the app's config.json in it.
#   docker build -t hrda .
FROM python:3.11-slim-bookworm

# opencv-python needs libGL and glib, supervisely needs libmagic and ffmpeg's libraries come with its wheels
RUN apt-get update \
 && apt-get install --yes --no-install-recommends libgl1 libglib2.0-0 libmagic1 \
 && rm -rf /var/lib/apt/lists/*

# PyPI's torch brings the CUDA libraries; the agent's driver is all that is needed besides
COPY requirements.txt /tmp/requirements.txt
RUN pip install --no-cache-dir -r /tmp/requirements.txt

# workers talk through shared memory, and idle OpenMP threads sleep instead of spinning
ENV OMP_WAIT_POLICY=PASSIVE \
    PYTHONUNBUFFERED=1

WORKDIR /app
COPY hrda_core hrda_core
COPY train_app train_app
COPY serve_app serve_app
COPY sdk_fixes sdk_fixes
COPY config.json ./
EXPOSE 8000
CMD ["python3", "-m", "uvicorn", "train_app.main:train.app", "--host", "0.0.0.0", "--port", "8000", "--ws", "websockets"]
