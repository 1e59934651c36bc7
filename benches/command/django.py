"""The loads on the formats of Django Channels: our layers and those of Python do the same work on the same keys."""

from . import channels, groups
from .load import Load
from .peers import ASGI_REDIS, CHANNELS_REDIS, OURS_AS_ASGI_REDIS, OURS_AS_CHANNELS_REDIS
from .ratios import Ratio
from .sizes import CHANNELS, CLIENTS, SENDERS, SMALL

GROUP = 1000


def sends(the):
    return the.each(of_two(the.sizes.django, the.sizes.send, OURS_AS_CHANNELS_REDIS, CHANNELS_REDIS), channels.send)


def end_to_ends(the):
    counts = of_two(the.sizes.django, the.sizes.end_to_end, OURS_AS_CHANNELS_REDIS, CHANNELS_REDIS)
    return the.each(counts, channels.end_to_end, SMALL)


def group_sends(the):
    calls = of_two(the.sizes.django_calls, the.sizes.group_calls, OURS_AS_CHANNELS_REDIS, CHANNELS_REDIS)
    return {name: group_send(the, name, count) for name, count in calls.items() if name in the.peers}


def asgi_sends(the):
    return the.each(of_two(the.sizes.django, the.sizes.send, OURS_AS_ASGI_REDIS, ASGI_REDIS), channels.send)


def of_two(count, counts, ours, theirs):
    return {ours: count, theirs: counts[theirs]}


def group_send(the, name, calls):
    members = groups.Members(the.stack, the.peers[name], [GROUP])
    return lambda: {"rate": members.send(f"bench.{GROUP}", calls)["rate"]}


LOADS = [
    Load("django_send", f"channels_redis' format, send: {SENDERS} senders, {CHANNELS} normal channels, 100 B", sends),
    Load("django_e2e", f"channels_redis' format, end to end: one ! channel, {CLIENTS} clients, 100 B", end_to_ends),
    Load("django_group_1000", f"channels_redis' format, group_send: {GROUP:,} members on 4 processes", group_sends),
    Load("asgi_send", f"asgi_redis' format, send: {SENDERS} senders, {CHANNELS} normal channels, 100 B", asgi_sends),
]

RATIOS = [
    Ratio(
        *("django_send_vs_channels_redis", "django_send", OURS_AS_CHANNELS_REDIS, CHANNELS_REDIS),
        at_least=20,
        label="send in its format, over channels_redis",
    ),
    Ratio(
        *("django_e2e_vs_channels_redis", "django_e2e", OURS_AS_CHANNELS_REDIS, CHANNELS_REDIS),
        at_least=20,
        label="end to end in its format, over channels_redis",
    ),
    Ratio(
        *("django_group_1000_vs_channels_redis", "django_group_1000", OURS_AS_CHANNELS_REDIS, CHANNELS_REDIS),
        at_least=10,
        label="group in its format, over channels_redis",
    ),
    Ratio(
        *("asgi_send_vs_asgi_redis", "asgi_send", OURS_AS_ASGI_REDIS, ASGI_REDIS),
        at_least=10,
        label="send in its format, over asgi_redis",
    ),
]
