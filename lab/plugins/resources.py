"""The life of one Kubernetes object under Pulumi, as pulumi-kubernetes 4.32 leads it.

Creates are plain POSTs, updates server-side applies by a field manager of its own, previews dry runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.plugins import diff, objects
from lab.plugins.awaits import NotReady, Waiter, timeout_of, wait_for
from lab.plugins.cluster import JSON_PATCH, ApiError, Cluster, NoKind
from lab.plugins.objects import annotation, identifier, meta
from lab.plugins.protos import JSON, has_unknown, reveal
from lab.plugins.serving import Partial

_RETRY_SECONDS = (0.5, 1, 2, 4, 8)  # a namespace or CRD made beside may follow; pulumi-kubernetes waits about 65 s
_CONFLICT_HELP = (
    "server-side apply field conflict detected, see https://www.pulumi.com/registry/packages/kubernetes/"
    "how-to-guides/managing-resources-with-server-side-apply/#handle-field-conflicts-on-existing-resources "
    "for troubleshooting help"
)
_EXISTS_HELP = (
    "\n\nThe resource already exists in the cluster: take it over with `pulumi import`, give a renamed resource "
    "an alias, or set upsertExistingObjects on the provider."
)
_MISSING_KIND = (
    "failed because the Kubernetes API server reported that the apiVersion for this resource does not exist. "
    "Verify that any required CRDs have been created"
)


@dataclass(frozen=True)
class Options:
    """The provider's settings."""

    namespace: str = "default"
    force: bool = False
    upsert: bool = False


@dataclass(frozen=True)
class Change:
    """What Diff found."""

    paths: dict[str, str]
    replaces: list[str]
    delete_first: bool


@dataclass(frozen=True)
class Objects:
    """Check, diff, create, read, update and delete of plain objects."""

    cluster: Cluster
    options: Options

    def _exists(self, obj: Mapping[str, Any]) -> bool:
        try:
            self.cluster.route(str(obj["apiVersion"]), str(obj["kind"]))
        except NoKind:
            return False
        return True

    def check(self, urn: str, news: JSON) -> JSON:
        """Inputs with what the provider fills in."""
        version, kind = objects.kind_of(urn)
        inputs = {"apiVersion": version, "kind": kind, **objects.normalize(news)}
        objects.refuse_unsupported(inputs)
        metadata = meta(inputs)
        if not metadata.get("name"):
            raise ValueError(f"the kubernetes stand-in gives no names of its own: set metadata.name of the {kind}")
        if expression := annotation(inputs, "pulumi.com/waitFor"):
            wait_for(expression)
        # A kind whose CRD is still to come is taken for a namespaced one, as nearly all are.
        unscoped = self._exists(inputs) and not self.cluster.route(inputs["apiVersion"], inputs["kind"]).namespaced
        if not metadata.get("namespace") and not unscoped:
            metadata["namespace"] = self.options.namespace
        return objects.mark(inputs, news)

    def diff(self, state: JSON, news: JSON, ignored: Sequence[str] = ()) -> Change:
        """The recorded live object, reduced to what its inputs spoke about, against the program's inputs."""
        old_inputs, live = objects.split_checkpoint(state)
        old = objects.normalize(objects.prune(live, objects.normalize(old_inputs)))
        new = objects.normalize(news)
        found = diff.changes(old, new, ignored)
        replaces = diff.replacements(found, diff.force_new(new))
        same = all(meta(new).get(key) == meta(live).get(key) for key in ("name", "namespace"))
        return Change(found, replaces, delete_first=bool(replaces) and same)

    def create(self, urn: str, inputs: JSON, timeout: float, preview: bool) -> tuple[str, JSON]:
        """Id and recorded state of a new object."""
        wanted = reveal(inputs)
        if preview and (has_unknown(wanted) or not self._exists(wanted)):
            return "", inputs
        manager = objects.manager_name({})
        try:
            live = self._post(wanted, manager, preview)
        except ApiError as error:
            if preview and _tolerable(error):
                return "", inputs
            help_text = _EXISTS_HELP if error.reason == "AlreadyExists" else ""
            text = f'resource "{urn}" was not successfully created by the Kubernetes API server: '
            raise ValueError(text + _explain(error, manager) + help_text) from error
        except NoKind as error:
            raise ValueError(f'creation of resource "{urn}" {_MISSING_KIND}: {error}') from error
        if preview:
            live.pop("status", None)
            return "", objects.checkpoint(inputs, live, inputs, manager)
        try:
            live = Waiter(self.cluster).ready(wanted, live, timeout_of(wanted, timeout))
        except NotReady as error:
            message = (
                f'resource "{urn}" was successfully created, but the Kubernetes API server '
                f"reported that it failed to fully initialize or become live: {error}"
            )
            state = objects.checkpoint(inputs, error.live, inputs, manager)
            raise Partial(identifier(error.live), message, state, error) from error
        return identifier(live), objects.checkpoint(inputs, live, inputs, manager)

    def _post(self, wanted: JSON, manager: str, preview: bool) -> JSON:
        pauses = iter(() if preview else _RETRY_SECONDS)
        while True:
            try:
                if not self.cluster.route(str(wanted["apiVersion"]), str(wanted["kind"])).namespaced:
                    meta(wanted).pop("namespace", None)
                if self.options.upsert:
                    force = objects.must_force(wanted, None, self.options.force, preview)
                    return self.cluster.apply(wanted, manager, force, preview)
                return self.cluster.create(wanted, objects.CREATE_MANAGER, preview)
            except (ApiError, NoKind) as error:
                pause = next(pauses, None)
                lasting = isinstance(error, ApiError) and error.code != 404
                if pause is None or lasting or self.cluster.cancelled.wait(pause):
                    raise

    def update(
        self, urn: str, state: JSON, news: JSON, timeout: float, preview: bool, ignored: Sequence[str] = ()
    ) -> JSON:
        """Recorded state after an update in place."""
        wanted = objects.normalize(news)
        if preview and (has_unknown(wanted) or not self._exists(wanted)):
            return news
        _, old_live = objects.split_checkpoint(state)
        manager = objects.manager_name(state)
        try:
            live = self._apply(wanted, old_live, manager, preview, ignored)
            if not preview:
                live = Waiter(self.cluster).ready(wanted, live, timeout_of(wanted, timeout))
        except NoKind as error:
            raise ValueError(f'update of resource "{urn}" {_MISSING_KIND}: {error}') from error
        except (ApiError, NotReady) as error:
            if isinstance(error, ApiError) and preview and error.code == 403:
                return news
            cause = _explain(error, manager)
            try:
                live = self.cluster.get(old_live)
            except ApiError as gone:
                text = f'update of resource "{urn}" failed: {cause}\nunable to get cluster state: {gone}'
                raise ValueError(text) from error
            name = identifier(live)
            message = f'the Kubernetes API server reported that "{name}" failed to fully initialize or become live: '
            raise Partial(name, message + cause, objects.checkpoint(news, live, news, manager), error) from error
        return objects.checkpoint(news, live, news, manager)

    def _apply(self, wanted: JSON, old_live: JSON, manager: str, preview: bool, ignored: Sequence[str]) -> JSON:
        live = self.cluster.get(old_live)
        if not preview and (managed := objects.take_over(live, manager)):
            values = {"managedFields": managed, "resourceVersion": meta(live)["resourceVersion"]}
            steps = [{"op": "replace", "path": f"/metadata/{key}", "value": value} for key, value in values.items()]
            live = self.cluster.request("PATCH", self.cluster.path_of(live), {}, steps, JSON_PATCH)
        objects.yield_ignored(wanted, live, manager, ignored)
        force = objects.must_force(wanted, live, self.options.force, preview)
        return self.cluster.apply(wanted, manager, force, preview)

    def read(self, urn: str, identity: str, inputs: JSON, state: JSON) -> tuple[JSON, JSON] | None:
        """Inputs and state as they are in the cluster; None when the object is gone."""
        namespace, _, name = identity.rpartition("/")
        version, kind = objects.kind_of(urn)
        importing = not inputs and not state
        old = {"apiVersion": version, "kind": kind, **objects.normalize(inputs)}
        old["metadata"] = {**meta(old), "name": name, **({"namespace": namespace} if namespace else {})}
        objects.refuse_unsupported(old)
        try:
            live = self.cluster.get(old)
        except (NoKind, ApiError) as error:
            if isinstance(error, NoKind) or error.code == 404:
                return None
            raise
        shown = objects.importable(live, old) if importing else objects.prune(live, old)
        new_state = objects.checkpoint(shown, live, inputs, objects.manager_name(state))
        new_inputs = new_state["__inputs"]
        try:
            if not importing:
                Waiter(self.cluster).look(old, live)
        except NotReady as error:
            raise Partial(identity, str(error), new_state, error, new_inputs) from error
        return new_inputs, new_state

    def delete(self, identity: str, state: JSON, timeout: float) -> None:
        inputs, live = objects.split_checkpoint(state)
        try:
            # What is gone already, or went with its CRD, counts as deleted.
            if self.cluster.delete(live):
                Waiter(self.cluster).gone(live, inputs, timeout_of(inputs, timeout))
        except NotReady as error:
            after = objects.checkpoint(inputs, error.live, state.get("__inputs", {}), objects.manager_name(state))
            raise Partial(identity, str(error), after, error) from error


def _tolerable(error: ApiError) -> bool:
    """A preview cannot know better: the namespace is to come, the object still there, or no right to try."""
    missing_namespace = error.code == 404 and error.details.get("kind") == "namespaces"
    return missing_namespace or error.reason == "AlreadyExists" or error.code == 403


def _explain(error: Exception, manager: str) -> str:
    if not isinstance(error, ApiError) or error.reason != "Conflict":
        return str(error)
    return f'{_CONFLICT_HELP}\nThe resource managed by field manager "{manager}" had an apply conflict: {error}'
