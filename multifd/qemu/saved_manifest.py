"""The manifest of a saved machine: what its mapped-ram file does not tell, and what to check that file against.

`manifest.json` is written with the machine and never changed. `digests.json`, beside it, is made afterwards. Both may
come from anywhere when they are read: whatever is wrong with them is `StorageError`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeVar
from uuid import UUID

from multifd.elements import Configuration, MachineState, Phase, RamBlock, Section
from multifd.errors import StorageError

FORMAT = 1
"""Raised when older readers would get something wrong. What they may leave out comes under new keys."""

VM = "vm"
MANIFEST = "manifest.json"
DIGESTS = "digests.json"
"""Names in the folder of a saved machine."""

T = TypeVar("T")
Facts = dict[str, str | int | float | bool | None]


@dataclasses.dataclass(frozen=True, slots=True)
class SectionFact:
    """What is told of a section. `early`: it came before RAM's END."""

    name: str
    instance: int
    version: int
    phase: str
    early: bool
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class BlockFact:
    """What is told of a RAM block. With x-ignore-shared it has a guest physical `address`, and `contents` is false if
    none of it came.
    """

    name: str
    bytes: int
    address: int | None
    contents: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What a manifest tells. `configuration` is the stream's own, as it came; `received` how it came, for people."""

    configuration: Configuration
    uuid: bytes
    switchover_start: bool
    description: tuple[int, str] | None
    """Bytes and SHA-256."""
    blocks: tuple[BlockFact, ...]
    sections: tuple[SectionFact, ...]
    vm_bytes: int
    frame_sha256: str
    """Of all that is no page: elements and bitmaps."""
    received: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        state: MachineState,
        *,
        absent: frozenset[str],
        vm_bytes: int,
        frame_sha256: str,
        received: Mapping[str, Any] = MappingProxyType({}),
    ) -> Manifest:
        """That of a machine. `absent` are the blocks of which nothing came."""
        return cls(
            state.configuration,
            state.uuid,
            state.switchover_start,
            None if state.description is None else (len(state.description), _sha256(state.description)),
            tuple(
                BlockFact(block.name, block.length, block.address, block.name not in absent) for block in state.blocks
            ),
            (
                *(_fact(each, early=True) for each in state.early),
                *(_fact(each, early=False) for each in state.sections),
            ),
            vm_bytes,
            frame_sha256,
            received,
        )

    @property
    def absent(self) -> frozenset[str]:
        """Blocks whose contents are not there."""
        return frozenset(block.name for block in self.blocks if not block.contents)

    def state(self, found: MachineState) -> MachineState:
        """The machine that was saved, from what its file tells of it."""
        blocks = tuple(RamBlock(block.name, block.bytes, address=block.address) for block in self.blocks)
        return dataclasses.replace(found, configuration=self.configuration, uuid=self.uuid, blocks=blocks)

    def difference(self, other: Manifest) -> str:
        """Where `other`, made of what is in the file, differs, in words; empty if nowhere."""
        for what, ours, theirs in (
            ("bytes:", self.vm_bytes, other.vm_bytes),
            ("configuration", _plain(self.configuration), _plain(other.configuration)),
            ("SWITCHOVER_START", self.switchover_start, other.switchover_start),
            ("blocks", _lengths(self.blocks), _lengths(other.blocks)),
            ("VM description", self.description, other.description),
            ("sections:", len(self.sections), len(other.sections)),
        ):
            if ours != theirs:
                return f"{what} {theirs}; {MANIFEST} says {ours}"
        for mine, found in zip(self.sections, other.sections, strict=True):
            if mine != found:
                return f"{found}; {MANIFEST} says {mine}"
        if self.frame_sha256 != other.frame_sha256:
            return f"SHA-256 {other.frame_sha256} of all but pages; {MANIFEST} says {self.frame_sha256}"
        return ""

    def to_json(self) -> bytes:
        """As the file holds it."""
        configuration = self.configuration
        return _dump(
            {
                "format": FORMAT,
                "machine": configuration.machine,
                "uuid": str(UUID(bytes=self.uuid)),
                "configuration": {
                    "page_bits": configuration.page_bits,
                    "capabilities": configuration.capabilities,
                    "uuid": None if configuration.uuid is None else str(UUID(bytes=configuration.uuid)),
                },
                "switchover_start": self.switchover_start,
                "description": self.description and {"bytes": self.description[0], "sha256": self.description[1]},
                "vm_bytes": self.vm_bytes,
                "frame_sha256": self.frame_sha256,
                "blocks": [_flat(block) for block in self.blocks],
                "sections": [_flat(section) for section in self.sections],
                "received": dict(self.received),
            }
        )

    @classmethod
    def from_json(cls, text: bytes) -> Manifest:
        """Raises `StorageError` if it is none."""
        return _parsed(MANIFEST, text, cls._parse)

    @classmethod
    def _parse(cls, top: Any) -> Manifest:
        if _get(top, "format", int) != FORMAT:
            raise ValueError(f"format {top['format']}; this multifd reads format {FORMAT}")
        configuration = _get(top, "configuration", dict)
        capabilities = _optional(configuration, "capabilities", list)
        uuid = _optional(configuration, "uuid", str)
        description = _optional(top, "description", dict)
        return cls(
            Configuration(
                _get(top, "machine", str),
                _optional(configuration, "page_bits", int),
                None if capabilities is None else tuple(map(str, capabilities)),
                None if uuid is None else UUID(uuid).bytes,
            ),
            UUID(_get(top, "uuid", str)).bytes,
            _get(top, "switchover_start", bool),
            None if description is None else (_get(description, "bytes", int), _get(description, "sha256", str)),
            tuple(_record(BlockFact, block) for block in _get(top, "blocks", list)),
            tuple(_record(SectionFact, section) for section in _get(top, "sections", list)),
            _get(top, "vm_bytes", int),
            _get(top, "frame_sha256", str),
            _get(top, "received", dict),
        )


def digests_to_json(digests: Mapping[str, str]) -> bytes:
    """`digests.json` of SHA-256 by block."""
    return _dump({"format": FORMAT, "sha256": dict(digests)})


def digests_from_json(text: bytes) -> dict[str, str]:
    """Raises `StorageError` if it is none."""

    def parse(top: Any) -> dict[str, str]:
        if _get(top, "format", int) != FORMAT:
            raise ValueError(f"format {top['format']}; this multifd reads format {FORMAT}")
        digests = _get(top, "sha256", dict)
        return {name: _get(digests, name, str) for name in digests}

    return _parsed(DIGESTS, text, parse)


def _plain(configuration: Configuration) -> Configuration:
    """Without capabilities: the file has its own."""
    return dataclasses.replace(configuration, capabilities=None)


def _lengths(blocks: tuple[BlockFact, ...]) -> list[tuple[str, int]]:
    return [(block.name, block.bytes) for block in blocks]


def _fact(section: Section, *, early: bool) -> SectionFact:
    header = section.header
    return SectionFact(
        header.name,
        header.instance,
        header.version,
        Phase(section.phase).name,
        early,
        len(section.body),
        _sha256(section.body),
    )


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _flat(fact: BlockFact | SectionFact) -> dict[str, Any]:
    """Its fields; `dataclasses.asdict` copies what can't change, in the guest's time."""
    return {field.name: getattr(fact, field.name) for field in dataclasses.fields(fact)}


def _dump(top: object) -> bytes:
    return json.dumps(top, indent=1, ensure_ascii=False).encode() + b"\n"


def _parsed(name: str, text: bytes, parse: Callable[[Any], T]) -> T:
    try:
        return parse(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{name} is not a manifest of a saved machine: {error}") from error


def _get(mapping: Any, key: str, kind: type[T]) -> T:
    value = mapping.get(key) if isinstance(mapping, dict) else None
    if type(value) is not kind:
        raise ValueError(f"{key!r:.80} should be {kind.__name__}")
    return value


def _optional(mapping: dict[str, Any], key: str, kind: type[T]) -> T | None:
    return None if mapping.get(key) is None else _get(mapping, key, kind)


def _record(kind: type[T], value: Any) -> T:
    """One of the facts from its JSON object."""
    fields: Any = dataclasses.fields(kind)  # type: ignore[arg-type]
    kinds = {"str": str, "int": int, "bool": bool}
    return kind(
        **{
            field.name: _get(value, field.name, kinds[field.type])
            if field.type in kinds
            else _optional(value, field.name, int)
            for field in fields
        }
    )
