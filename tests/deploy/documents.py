"""Prints the documents of a YAML file as JSON, when all are what their schema wants: compose or kubernetes, then a file."""

import json
import sys
from importlib.resources import files

import jsonschema
import kubernetes_validate
import yaml

# The oldest that has all that the file uses, and the latest there is.
KUBERNETES = ["1.30", "1.37"]


def check_compose(document):
    schema = files("check_jsonschema") / "builtin_schemas/vendor/compose-spec.json"
    jsonschema.validate(document, json.loads(schema.read_text()))


def check_kubernetes(document):
    for version in KUBERNETES:
        # Strict: without fields that the schema does not have.
        kubernetes_validate.validate(document, version, strict=True)


kind, path = sys.argv[1:]
check = {"compose": check_compose, "kubernetes": check_kubernetes}[kind]
with open(path) as file:
    documents = list(yaml.safe_load_all(file))
for document in documents:
    check(document)
json.dump(documents, sys.stdout)
