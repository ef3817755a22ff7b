"""How types are checked while tests run: beartype, with an int where a float is meant allowed as everywhere in Python."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
