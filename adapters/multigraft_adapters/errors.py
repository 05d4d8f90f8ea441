"""The exception tree of multigraft. Every leaf has a stable `code`; none knows HTTP.

MultigraftError
├── InputError                      the caller's mistake
│   ├── InvalidRequestError         invalid_request
│   ├── ContextLengthError          context_length_exceeded
│   ├── TaskTypeMismatchError       task_type_mismatch
│   ├── InvalidAdapterError         invalid_adapter
│   ├── InvalidRecipeError          invalid_recipe
│   └── InvalidDataError            invalid_data
├── PayloadTooLargeError            payload_too_large
├── HeadTooLargeError               head_too_large
├── RequestTimeoutError             request_timeout: the client takes too long to send
├── AuthenticationError             invalid_api_key
├── PermissionDeniedError           permission_denied
├── QuotaError                      rate_limit_exceeded
├── NotFoundError
│   ├── TaskNotFoundError           task_not_found
│   ├── VersionNotFoundError        version_not_found
│   ├── FileNotStoredError          file_not_found
│   ├── JobNotFoundError            job_not_found
│   ├── KeyNotFoundError            key_not_found
│   └── RouteNotFoundError          route_not_found
├── MethodNotAllowedError           method_not_allowed
├── ConflictError                   conflict
│   ├── IdempotencyConflictError    idempotency_conflict
│   ├── MergeRefusedError           merge_refused
│   └── LeaseLostError              lease_lost
├── UnavailableError
│   ├── OverloadedError             overloaded
│   ├── DrainingError               draining
│   ├── RegistryUnavailableError    registry_unavailable
│   ├── StoreUnavailableError       store_unavailable
│   ├── VersionRetiredError         version_retired
│   ├── OutOfMemoryError            out_of_memory
│   ├── StepStalledError            step_stalled
│   └── EngineStoppedError          engine_stopped
├── DeadlineError                   deadline_exceeded
├── RequestCancelledError           request_cancelled
├── AdapterLoadError                adapter_load_failed
├── StepFailedError                 step_failed
├── IntegrityError                  integrity_failed
├── TrainingFailedError             training_failed
├── TrainingStoppedError            training_stopped
├── SetupError                      the process cannot start (exit code 2)
│   ├── BaseNotFoundError           base_not_found
│   ├── UnsupportedBaseError        unsupported_base
│   ├── DataFolderError             data_folder
│   └── BindError                   bind
├── ServerUnreachableError          server_unreachable: the client got no answer, or not all of it
└── RemoteError                     remote_error: a server answered the client with an error
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar


class MultigraftError(Exception):
    """Base of all errors that multigraft raises on purpose.

    `message` is one sentence for a person, `param` names the field that is wrong, `data` holds details.
    """

    code: ClassVar[str] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, **data: Any) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.data = data


class InputError(MultigraftError):
    """The caller sent something that cannot be served."""

    code = "invalid_request"


class InvalidRequestError(InputError):
    """A field of the request is missing, unknown, or has a wrong value."""

    code = "invalid_request"


class ContextLengthError(InputError):
    """The input and the answer asked for do not fit the base's context."""

    code = "context_length_exceeded"


class TaskTypeMismatchError(InputError):
    """The task exists, but its type is not the one that the route serves."""

    code = "task_type_mismatch"


class ProblemsError(InputError):
    """An input with several problems, all of them named in `problems`."""

    def __init__(self, message: str, problems: Iterable[str], *, param: str | None = None) -> None:
        self.problems = list(problems)
        super().__init__(f"{message}: " + "; ".join(self.problems), param=param, problems=self.problems)


class InvalidAdapterError(ProblemsError):
    """An adapter that must not be served; `problems` names every reason."""

    code = "invalid_adapter"


class InvalidRecipeError(ProblemsError):
    """A recipe that cannot be run; `problems` names every reason with its line."""

    code = "invalid_recipe"


class InvalidDataError(ProblemsError):
    """A data file that cannot be trained on; `problems` names every reason with its line."""

    code = "invalid_data"


class PayloadTooLargeError(MultigraftError):
    """The body is larger than the cap."""

    code = "payload_too_large"


class HeadTooLargeError(MultigraftError):
    """The request's line and headers are larger than the cap."""

    code = "head_too_large"


class RequestTimeoutError(MultigraftError):
    """The client takes too long to send its request."""

    code = "request_timeout"


class AuthenticationError(MultigraftError):
    """The key is missing or wrong."""

    code = "invalid_api_key"


class PermissionDeniedError(MultigraftError):
    """The key is right, but not for this."""

    code = "permission_denied"


class QuotaError(MultigraftError):
    """The key's limit is reached; `data["retry_after"]` is after how many seconds there is room again."""

    code = "rate_limit_exceeded"


class NotFoundError(MultigraftError):
    """What the request names does not exist."""

    code = "not_found"


class TaskNotFoundError(NotFoundError):
    """No task has this name."""

    code = "task_not_found"


class VersionNotFoundError(NotFoundError):
    """The task exists, the version or alias does not."""

    code = "version_not_found"


class FileNotStoredError(NotFoundError):
    """No uploaded file has this id."""

    code = "file_not_found"


class JobNotFoundError(NotFoundError):
    """No training job has this id."""

    code = "job_not_found"


class KeyNotFoundError(NotFoundError):
    """No key has this id."""

    code = "key_not_found"


class RouteNotFoundError(NotFoundError):
    """No route has this path."""

    code = "route_not_found"


class MethodNotAllowedError(MultigraftError):
    """The route exists, but not for this HTTP method."""

    code = "method_not_allowed"


class ConflictError(MultigraftError):
    """The present state does not allow the change."""

    code = "conflict"


class IdempotencyConflictError(ConflictError):
    """An idempotency key came again with another body."""

    code = "idempotency_conflict"


class MergeRefusedError(ConflictError):
    """An adapter cannot be merged into the base's weights, or may not; the message says why."""

    code = "merge_refused"


class LeaseLostError(ConflictError):
    """A worker's job was ended, or given to another worker."""

    code = "lease_lost"


class UnavailableError(MultigraftError):
    """The server cannot take the request now; it may later."""

    code = "unavailable"


class OverloadedError(UnavailableError):
    """The queue is full."""

    code = "overloaded"


class DrainingError(UnavailableError):
    """The server is stopping."""

    code = "draining"


class RegistryUnavailableError(UnavailableError):
    """The registry is locked or cannot be reached; what is known of it is served on."""

    code = "registry_unavailable"


class StoreUnavailableError(UnavailableError):
    """The place where adapters are kept is full, slow or down; nothing half-written is kept."""

    code = "store_unavailable"


class VersionRetiredError(UnavailableError):
    """The version was retired while it computed the answer, and the time to complete it is over."""

    code = "version_retired"


class OutOfMemoryError(UnavailableError):
    """The step that computed the request had not enough memory, not even for a half of it."""

    code = "out_of_memory"


class StepStalledError(UnavailableError):
    """The engine's step takes far longer than any should; the process must be restarted."""

    code = "step_stalled"


class EngineStoppedError(UnavailableError):
    """The engine thread has ended; the process must be restarted."""

    code = "engine_stopped"


class DeadlineError(MultigraftError):
    """The request's deadline passed before its answer was complete."""

    code = "deadline_exceeded"


class RequestCancelledError(MultigraftError):
    """The caller went away or cancelled."""

    code = "request_cancelled"


class AdapterLoadError(MultigraftError):
    """A registered adapter could not be brought into memory."""

    code = "adapter_load_failed"


class StepFailedError(MultigraftError):
    """The engine's step raised; the requests in it are lost, others go on."""

    code = "step_failed"


class IntegrityError(MultigraftError):
    """Stored bytes, or an owner's books, do not agree with what they should be."""

    code = "integrity_failed"


class TrainingFailedError(MultigraftError):
    """Training cannot go on; nothing was exported."""

    code = "training_failed"


class TrainingStoppedError(MultigraftError):
    """Training was asked to stop and did, after a checkpoint that it can be resumed from."""

    code = "training_stopped"


class SetupError(MultigraftError):
    """The process cannot start; commands print the message and exit with code 2."""

    code = "setup"


class BaseNotFoundError(SetupError):
    """The base is neither embedded, nor a folder, nor a model id that can be had."""

    code = "base_not_found"


class UnsupportedBaseError(SetupError):
    """The base was found, but its architecture or files are not supported."""

    code = "unsupported_base"


class DataFolderError(SetupError):
    """The data folder cannot be created, read or written."""

    code = "data_folder"


class BindError(SetupError):
    """The address cannot be listened on, or must not be without a key."""

    code = "bind"


class ServerUnreachableError(MultigraftError):
    """The client found no server at the URL, or the connection ended before the answer did."""

    code = "server_unreachable"


class RemoteError(MultigraftError):
    """A server answered the client with an error; `status` and `remote_code` say which."""

    code = "remote_error"

    def __init__(self, message: str, *, status: int, remote_code: str | None = None, **data: Any) -> None:
        super().__init__(message, **data)
        self.status = status
        self.remote_code = remote_code
