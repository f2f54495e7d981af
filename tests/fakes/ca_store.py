"""The CA's stores in memory: a repository whose transactions roll back, a key store, a place for the bundle."""

import asyncio
import copy
from contextlib import asynccontextmanager
from dataclasses import replace

from app.ca.ports import WITHOUT_STREAM
from app.ca.rules.merkle import TILE_WIDTH, Frontier, Node, Tile
from app.core.errors import ConflictError, UnavailableError


class MemoryTransactions:
    """Transactions over one MemoryRepository, one at a time, as an immediate transaction of SQLite has it.

    `away` makes the next ones fail as a database that cannot be reached.
    """

    def __init__(self) -> None:
        self.state = MemoryRepository()
        self.away = False
        self._lock = asyncio.Lock()

    def __call__(self):
        return self._begin()

    @asynccontextmanager
    async def _begin(self):
        if self.away:
            raise UnavailableError("the database is away")
        async with self._lock:
            before = copy.deepcopy(self.state.__dict__)
            try:
                yield self.state
            except BaseException:
                self.state.__dict__ = before
                raise


class MemoryRepository:
    def __init__(self) -> None:
        self._roots, self._signers, self._requests = {}, {}, {}
        self._given = set()
        self._svids, self._tokens, self._hashes, self._entries = [], {}, {}, {}
        self._numbers = 0
        self._bans, self._ban_revision = {}, 0
        self._crls, self._stages, self._reports = {}, {}, {}
        self.audited = []
        self.unapproved = {}
        self.frontier, self.leaves, self.nodes, self.heads = Frontier(), {}, {}, {}

    async def record(self, *records):
        self.audited += records

    async def roots(self):
        return sorted(self._roots.values(), key=lambda root: root.generation)

    async def has_roots(self):
        return bool(self._roots)

    async def add_root(self, root):
        if root.id in self._roots or any(other.generation == root.generation for other in self._roots.values()):
            raise ConflictError("the generation is taken")
        self._roots[root.id] = root

    async def replace_root(self, root):
        assert root.id in self._roots
        self._roots[root.id] = root

    async def hold_authorities(self):
        """Transactions are one at a time."""

    async def stages(self):
        return sorted(self._stages.values(), key=lambda stage: (stage.number, stage.id))

    async def put_stage(self, stage):
        self._stages[stage.id] = stage

    async def put_report(self, report):
        self._reports[report.id] = report

    async def reports(self):
        return list(self._reports.values())

    async def remove_report(self, replica_id):
        self._reports.pop(replica_id, None)

    async def identities_under(self, root_id, now, limit):
        live = [svid for svid in self._svids if svid.not_after > now]
        other = {svid.spiffe_id for svid in live if self._signers[svid.signer_id].root_id != root_id}
        return [*dict.fromkeys(svid.spiffe_id for svid in live if svid.spiffe_id not in other)][:limit]

    async def unrenewed(self, before, now, limit):
        last = {}
        for svid in self._svids:
            if svid.not_after > now and svid.surface in WITHOUT_STREAM:
                last[svid.spiffe_id] = max(svid.issued_at, last.get(svid.spiffe_id, svid.issued_at))
        return [spiffe_id for spiffe_id, at in last.items() if at < before][:limit]

    async def signers(self, root_id, now):
        found = [signer for signer in self._signers.values() if signer.root_id == root_id and signer.not_after > now]
        return sorted(found, key=lambda signer: (-signer.not_after.timestamp(), signer.id))

    async def signer(self, signer_id):
        return self._signers.get(signer_id)

    async def put_signer(self, signer, now):
        self._signers[signer.id] = signer
        self._given.add(signer.id)

    async def roots_above_others(self, now):
        given = (self._signers[each] for each in self._given)
        return {signer.root_id for signer in given if signer.not_after > now}

    async def signing_requests(self, root_id, limit):
        found = [request for request in self._requests.values() if request.root_id == root_id]
        return sorted(found, key=lambda request: (request.created_at, request.id))[:limit]

    async def unapproved_requests(self, root_id, limit):
        return [request for request in self.unapproved.values() if request.root_id == root_id][:limit]

    async def approve_signing_request(self, request):
        self._requests[request.id] = self.unapproved.pop(request.id)
        return True

    async def add_signing_request(self, request):
        self._requests[request.id] = request

    async def answer_signing_request(self, signer):
        if self._requests.pop(signer.id, None) is None:
            return False
        self._signers[signer.id] = signer
        return True

    async def remove_signing_request(self, request_id):
        self._requests.pop(request_id, None)

    async def add_svids(self, svids):
        for svid in svids:
            if any(other.serial == svid.serial for other in self._svids):
                raise ConflictError("the serial number is taken")
            self._numbers += 1
            self._svids.append(replace(svid, number=self._numbers))

    async def svids(self, before, limit, spiffe_id):
        found = [
            svid
            for svid in reversed(self._svids)
            if (before is None or svid.number < before) and (spiffe_id is None or svid.spiffe_id == spiffe_id)
        ]
        return found[:limit]

    async def svid(self, serial):
        return next((svid for svid in self._svids if svid.serial == serial), None)

    async def oldest_svid(self, now):
        return min((svid.issued_at for svid in self._svids if svid.not_after > now), default=None)

    async def remove_svids(self, ended_before, limit):
        stale = [svid for svid in self._svids if svid.not_after < ended_before][:limit]
        self._svids = [svid for svid in self._svids if svid not in stale]
        return len(stale)

    async def log_frontier(self):
        return self.frontier

    async def extend_log(self, leaves, nodes, frontier):
        if any(leaf.index in self.leaves for leaf in leaves):
            raise ConflictError("the place is taken")
        self.leaves |= {leaf.index: leaf for leaf in leaves}
        self.nodes |= nodes
        self.frontier = frontier

    async def log_leaves(self, start, limit):
        return [self.leaves[index] for index in sorted(self.leaves) if index >= start][:limit]

    async def log_leaf_of(self, subject):
        return next((leaf for _, leaf in sorted(self.leaves.items(), reverse=True) if leaf.subject == subject), None)

    async def log_nodes(self, tiles):
        stored = self.nodes | {Node(0, leaf.index): leaf.hash for leaf in self.leaves.values()}
        return {node: hashed for node, hashed in stored.items() if Tile(node.level, node.index // TILE_WIDTH) in tiles}

    async def add_head(self, head):
        self.heads.setdefault(head.size, head)

    async def newest_head(self):
        return self.heads[max(self.heads)] if self.heads else None

    async def head_of(self, size):
        return self.heads.get(size)

    async def add_token(self, token, secret_hash):
        if secret_hash in self._hashes:
            raise ConflictError("the secret is taken")
        self._tokens[token.id], self._hashes[secret_hash] = token, token.id

    async def token_by_hash(self, secret_hash):
        return self._tokens.get(self._hashes.get(secret_hash))

    async def tokens_by_id(self, token_ids):
        return [self._tokens[token_id] for token_id in token_ids if token_id in self._tokens]

    async def tokens(self, after, limit):
        return [self._tokens[key] for key in sorted(self._tokens) if after is None or key > after][:limit]

    async def redeem_tokens(self, token_ids, now):
        usable = [token_id for token_id in token_ids if token_id in self._tokens and self._tokens[token_id].usable(now)]
        for token_id in usable:
            self._tokens[token_id] = replace(self._tokens[token_id], redeemed_at=now)
        return usable

    async def remove_token(self, token_id):
        return self._tokens.pop(token_id, None)

    async def remove_tokens(self, expired_before, limit):
        stale = [token.id for token in self._tokens.values() if token.expires_at < expired_before][:limit]
        for token_id in stale:
            del self._tokens[token_id]
        return len(stale)

    async def add_entry(self, entry):
        if any(other.spiffe_id == entry.spiffe_id for other in self._entries.values()):
            raise ConflictError("the id has an entry")
        self._entries[entry.id] = entry

    async def entry(self, entry_id):
        return self._entries.get(entry_id)

    async def hold_for_issuance(self, spiffe_ids):
        entries = [entry for entry in self._entries.values() if entry.spiffe_id in spiffe_ids]
        return await self.hold_bans(), entries, self.frontier

    async def entry_of(self, spiffe_id):
        return next((entry for entry in self._entries.values() if entry.spiffe_id == spiffe_id), None)

    async def entries(self, after, limit):
        found = sorted(self._entries.values(), key=lambda entry: str(entry.spiffe_id))
        return [entry for entry in found if after is None or str(entry.spiffe_id) > after][:limit]

    async def replace_entry(self, entry_id, spec, version, now):
        found = self._entries.get(entry_id)
        if found is None or found.version != version:
            return None
        self._entries[entry_id] = replace(
            found,
            x509_svid_ttl=spec.x509_svid_ttl,
            dns_names=spec.dns_names,
            hint=spec.hint,
            version=version + 1,
            updated_at=now,
        )
        return self._entries[entry_id]

    async def remove_entry(self, entry_id, version):
        found = self._entries.get(entry_id)
        if found is None or version not in {None, found.version}:
            return None
        return self._entries.pop(entry_id)

    async def crl_numbers(self):
        return {crl.id: crl.number for crl in self._crls.values()}

    async def crls(self, authority_ids):
        return [crl for crl in self._crls.values() if crl.id in authority_ids]

    async def put_crl(self, crl):
        if crl.id in self._crls and self._crls[crl.id].number >= crl.number:
            raise ConflictError("the number is taken")
        self._crls[crl.id] = crl

    async def live_svids(self, signer_id, subjects, now, limit):
        def named(svid):
            text = str(svid.spiffe_id)
            below = any(text.startswith(each.removesuffix("*")) for each in subjects if each.endswith("/*"))
            return below or text in subjects or svid.serial in subjects

        found = [svid for svid in self._svids if svid.signer_id == signer_id and svid.not_after > now and named(svid)]
        return found[:limit]

    async def has_live_svids(self, signer_id, now):
        return any(svid.signer_id == signer_id and svid.not_after > now for svid in self._svids)

    async def ban_revision(self):
        return self._ban_revision

    hold_bans = ban_revision

    async def next_ban_revision(self):
        self._ban_revision += 1
        return self._ban_revision

    async def bans(self):
        return [self._bans[subject] for subject in sorted(self._bans)]

    async def ban_page(self, after, limit):
        return [ban for ban in await self.bans() if after is None or ban.subject > after][:limit]

    async def add_ban(self, ban):
        if ban.subject in self._bans:
            raise ConflictError("the subject has a ban")
        self._bans[ban.subject] = ban

    async def remove_ban(self, subject):
        return self._bans.pop(subject, None)

    async def remove_bans(self, ended_before, limit):
        ended = [ban.subject for ban in self._bans.values() if ban.expires_at and ban.expires_at < ended_before]
        for subject in ended[:limit]:
            del self._bans[subject]
        return len(ended[:limit])


class MemoryPublisher:
    def __init__(self) -> None:
        self.published = []

    async def publish(self, bundle):
        self.published.append(bundle)
