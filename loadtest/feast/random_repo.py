"""Repositories drawn from a seed, for what nobody thought of: names, keys, types, services in any combination."""

from values import TYPES, WRITABLE

# Names that are legal in Feast: anything without "@" and ":" for views, anything at all elsewhere. One of them is
# where another's second version is stored.
NAMES = [
    "stats",
    "user_features",
    "é",
    "東京",
    "v2",
    "x__y",
    "a-b",
    "9lives",
    "UPPER",
    "with space",
    "ß",
    "🦀",
    "a.b",
    "_",
    "stats_v1",
]
KEY_NAMES = ["id", "ID", "user_id", "a", "Z", "é_id", "東", "id_2", "b__c", "key with space"]
FEATURE_NAMES = ["a", "b", "c", "A", "rate", "naïve", "x:y", "x__y", "値", "f 1", "__f", "n0", "id", "event"]
KEY_KINDS = [*["int64", "string"] * 4, *["int32", "time"] * 2, "bytes"]


def describe(draft):
    rng = draft.random
    for number, key in enumerate(rng.sample(KEY_NAMES, rng.randint(3, 6))):
        # Some entities are called otherwise than their join keys.
        name = key if rng.random() < 0.5 else f"entity {number}"
        draft.entity(name, rng.choice(KEY_KINDS), join_key=key, is_typed=rng.random() < 0.7)
    entities = list(draft.entities)
    for name in rng.sample(NAMES, rng.randint(5, 12)):
        draw_view(draft, name, entities)
    for name in rng.sample(NAMES, rng.randint(3, 8)):
        draw_service(draft, name)
    for name in list(draft.views):
        if (
            rng.random() < 0.25
            and draft.views[name].serves
            and draft.views[name].keys
            and not draft.views[name].push_source
        ):
            # The types of untyped entities would have to be said again, so those views stay as they are.
            if all(draft.entities[entity][0].value_type.value for entity in draft.objects[name].entities):
                draft.again(name, features(rng, TYPES, draft.views[name].keys))


def features(rng, kinds, taken):
    """Features of any type, under names that are none of the view's keys."""
    names = [name for name in rng.sample(FEATURE_NAMES, rng.randint(1, 7)) if name not in taken]
    return {name: rng.choice(list(kinds)) for name in names} or {"only": "int64"}


def draw_view(draft, name, entities):
    rng = draft.random
    of = rng.sample(entities, rng.choice([0, 1, 1, 1, 1, 2, 2, 3]))
    keys = {draft.entities[entity][0].join_key for entity in of}
    is_pushed = rng.random() < 0.5
    chosen = features(rng, WRITABLE if is_pushed else TYPES, keys)
    is_enabled = rng.random() < 0.93
    draft.view(
        name,
        of,
        chosen,
        count=rng.choice([0, 5, 20, 40]),
        is_pushed=is_pushed,
        serves=is_enabled,
        enabled=is_enabled,
        ttl_s=rng.choice([0, 0, 60, 10**7]),
        online=rng.random() < 0.9,
    )


def draw_service(draft, name):
    rng = draft.random
    parts = []
    for view in rng.sample(list(draft.views), rng.randint(1, min(3, len(draft.views)))):
        part = draft.objects[view]
        if rng.random() < 0.5:
            part = part[rng.sample([f.name for f in part.features], rng.randint(1, len(part.features)))]
        if rng.random() < 0.4:
            part = part.with_name(rng.choice(["alias", "é alias", "stats", f"{view}_again"]))
        keys = list(draft.views[view].keys)
        if keys and rng.random() < 0.4:
            part = part.with_join_key_map({rng.choice(keys): rng.choice(["mapped", "other é", "id"])})
        parts.append(part)
    draft.service(name, *parts)
