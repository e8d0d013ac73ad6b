# The trainer: agent, ranks and all that they train with; no compiler, no operator. Runs with a read-only root, as any
# user: what libraries write for themselves goes to /tmp, where a volume is expected.
# torch comes from wherever the base image's pip looks: the CUDA build from PyPI, or a CPU build it is pointed to.
# Two layers over the base image, dependencies below our code. Built in the repository's root by `make images`.

# What is to be installed, by itself: nothing else in pyproject.toml makes the dependencies' layer anew.
FROM python:3.11 AS requirements
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], \
*p['optional-dependencies']['trainer'], *p['optional-dependencies']['s3'], sep='\n')" > /requirements.txt

FROM python:3.11 AS build
RUN python -m venv --without-pip /opt/trainyard && echo /opt/code > /opt/trainyard/lib/python3.11/site-packages/code.pth
WORKDIR /src
COPY constraints.txt ./
COPY --from=requirements /requirements.txt ./
RUN pip --python /opt/trainyard/bin/python install -q --no-cache-dir -c constraints.txt -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY operator operator
COPY trainer trainer
RUN pip --python /opt/trainyard/bin/python install -q --no-cache-dir --no-deps --target /opt/code . && \
    rm -rf /opt/code/trainyard_operator /opt/code/bin/trainyard /opt/code/bin/trainyard-operator

FROM python:3.11-slim
# LOGNAME: torch asks for the user's name, and a numeric user has none.
ENV PATH=/opt/code/bin:/opt/trainyard/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 LOGNAME=trainyard \
    HOME=/tmp TMPDIR=/tmp XDG_CACHE_HOME=/tmp/cache HF_HOME=/tmp/huggingface TRITON_CACHE_DIR=/tmp/triton \
    TORCHINDUCTOR_CACHE_DIR=/tmp/inductor TORCH_EXTENSIONS_DIR=/tmp/torch-extensions
COPY --from=build /opt/trainyard /opt/trainyard
COPY --from=build /opt/code /opt/code
USER 65532:65532
CMD ["trainyard-trainer", "agent"]
