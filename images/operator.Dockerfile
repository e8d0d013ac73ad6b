# The operator: without torch, the trainer and pip, and without the `kubernetes` package (126 MB), which it doesn't need.
# Two layers over the base image, dependencies below our code. Built in the repository's root by `make images`.

# What is to be installed, by itself: nothing else in pyproject.toml makes the dependencies' layer anew.
FROM python:3.11 AS requirements
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; print(*p['dependencies'], \
*p['optional-dependencies']['operator'], sep='\n')" > /requirements.txt

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
    rm -rf /opt/code/trainyard_trainer /opt/code/bin/trainyard /opt/code/bin/trainyard-trainer

FROM python:3.11-slim
# LOGNAME: kopf asks for the user's name, and a numeric user has none.
ENV PATH=/opt/code/bin:/opt/trainyard/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp LOGNAME=trainyard
COPY --from=build /opt/trainyard /opt/trainyard
COPY --from=build /opt/code /opt/code
USER 65532:65532
CMD ["trainyard-operator"]
