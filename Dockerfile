# `vivit serve` on a CPU: docker build -t vivit --build-arg TORCH_OPTIONS="..." .
# TORCH_OPTIONS are the options of `pip install` that pytorch.org gives for the CPU. Without them the image gets PyTorch
# with CUDA, gigabytes more.
FROM python:3.12-slim-bookworm AS build
ARG TORCH_OPTIONS=""
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY vivit ./vivit
RUN python -m venv /opt/vivit \
 && grep -E '^(torch|torchvision)==' constraints.txt > torch.txt \
 && /opt/vivit/bin/pip install --no-cache-dir $TORCH_OPTIONS -r torch.txt \
 && grep -vE '^(torch|torchvision)==' constraints.txt > rest.txt \
 && /opt/vivit/bin/pip install --no-cache-dir -c rest.txt '.[serve]'

FROM python:3.12-slim-bookworm
COPY --from=build /opt/vivit /opt/vivit
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin vivit
ENV PATH=/opt/vivit/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    HF_HUB_OFFLINE=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
ENTRYPOINT ["vivit"]
CMD ["serve", "/weights", "--host", "0.0.0.0", "--port", "8000"]
