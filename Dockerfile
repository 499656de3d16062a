# The live service on a CPU: docker build -t jambatalk-live . && docker run --rm -p 8765:8765 jambatalk-live
FROM python:3.11-slim

WORKDIR /app
COPY requirements.txt .
# the CPU build of the pinned torch: 200 MB instead of 3 GB
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu \
        "$(grep '^torch==' requirements.txt)" \
    && pip install --no-cache-dir -r requirements.txt
COPY . .
RUN useradd --create-home speaker && chown -R speaker /app
USER speaker
ENV OMP_WAIT_POLICY=PASSIVE PYTHONUNBUFFERED=1
# compiles what a session calls; a container on another kind of processor does so at its start
RUN head -c 64000 /dev/zero | python live.py --stdin > /dev/null
EXPOSE 8765
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD \
    python -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/healthz', timeout=4)"
CMD ["python", "live.py", "--host", "0.0.0.0"]
