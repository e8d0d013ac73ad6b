# The operator: without torch, the trainer and pip, and without the `kubernetes` package (126 MB), which it doesn't need.
# Two layers over the base image, dependencies below our code. Built in the repository's root by `make images`.
FROM python:3.11 AS build
RUN python -m venv --without-pip /opt/trainyard && echo /opt/code > /opt/trainyard/lib/python3.11/site-packages/code.pth
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], \
*p['optional-dependencies']['operator'], sep='\n')" > requirements.txt && \
    pip --python /opt/trainyard/bin/python install --no-cache-dir -c constraints.txt -r requirements.txt
COPY README.md LICENSE ./
COPY api api
COPY operator operator
COPY trainer trainer
RUN pip --python /opt/trainyard/bin/python install --no-cache-dir --no-deps --target /opt/code . && \
    rm -rf /opt/code/trainyard_trainer /opt/code/bin/trainyard /opt/code/bin/trainyard-trainer

FROM python:3.11-slim
ENV PATH=/opt/code/bin:/opt/trainyard/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
COPY --from=build /opt/trainyard /opt/trainyard
COPY --from=build /opt/code /opt/code
USER 65532:65532
CMD ["trainyard-operator"]
