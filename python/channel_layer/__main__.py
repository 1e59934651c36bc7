"""``python -m channel_layer doctor``: examines the channel layers of a Django site."""

import argparse
import os
import sys

from django.core.exceptions import ImproperlyConfigured


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m channel_layer")
    commands = parser.add_subparsers(required=True, metavar="command")
    doctor = commands.add_parser("doctor", help="examine the channel layers of the site and their servers")
    doctor.add_argument("aliases", nargs="*", metavar="alias", help="a name in CHANNEL_LAYERS; all without a name")
    doctor.add_argument("--settings", help="the module with the settings; defaults to DJANGO_SETTINGS_MODULE")
    arguments = parser.parse_args()
    if arguments.settings:
        os.environ["DJANGO_SETTINGS_MODULE"] = arguments.settings

    from .doctor import examine

    try:
        return 0 if examine(arguments.aliases, print) else 1
    except (ImproperlyConfigured, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
