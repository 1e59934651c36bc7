"""``manage.py channel_layer_doctor``: examines the channel layers of the site."""

from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import BaseCommand, CommandError

from channel_layer.doctor import examine


class Command(BaseCommand):
    help = "Shows the options of the site's channel layers and the state of their servers."
    # The doctor finds the same faults itself.
    requires_system_checks = []

    def add_arguments(self, parser):
        parser.add_argument("aliases", nargs="*", metavar="alias", help="a name in CHANNEL_LAYERS; all without a name")

    def handle(self, *args, **options):
        try:
            healthy = examine(options["aliases"], self.stdout.write)
        except ImproperlyConfigured as error:
            raise CommandError(str(error)) from error
        if not healthy:
            raise CommandError("messages do not arrive through every server of every layer")
