"""The public names of lapse: this is the only list of them.

`lapse` offers each of them, and loads it on first use. Importing this module loads them all.
"""

from lapse.addresses import normalise_address as normalise_address
from lapse.addresses import session_key as session_key
from lapse.aio import AsyncConversationService as AsyncConversationService
from lapse.errors import CallTimeoutError as CallTimeoutError
from lapse.errors import ConversationAlreadyOpenError as ConversationAlreadyOpenError
from lapse.errors import ConversationChangedError as ConversationChangedError
from lapse.errors import ConversationExpiredError as ConversationExpiredError
from lapse.errors import ConversationNotFoundError as ConversationNotFoundError
from lapse.errors import DatabaseError as DatabaseError
from lapse.errors import DatabaseUnavailableError as DatabaseUnavailableError
from lapse.errors import ForeignTableError as ForeignTableError
from lapse.errors import InvalidAddressError as InvalidAddressError
from lapse.errors import InvalidInputError as InvalidInputError
from lapse.errors import InvalidTransitionError as InvalidTransitionError
from lapse.errors import LapseError as LapseError
from lapse.errors import NaiveDatetimeError as NaiveDatetimeError
from lapse.errors import ReplayError as ReplayError
from lapse.errors import SameAddressError as SameAddressError
from lapse.errors import SchemaError as SchemaError
from lapse.errors import SchemaMissingError as SchemaMissingError
from lapse.errors import SchemaVersionError as SchemaVersionError
from lapse.errors import SettingsError as SettingsError
from lapse.lifecycle import ConversationStatus as ConversationStatus
from lapse.lifecycle import EventType as EventType
from lapse.lifecycle import Sender as Sender
from lapse.messages import Message as Message
from lapse.messages import MessageResult as MessageResult
from lapse.messages import Outcome as Outcome
from lapse.models import Conversation as Conversation
from lapse.models import ConversationEvent as ConversationEvent
from lapse.models import NextDeadlines as NextDeadlines
from lapse.models import PurgeResult as PurgeResult
from lapse.models import SweepResult as SweepResult
from lapse.service import ConversationService as ConversationService
from lapse.settings import Settings as Settings
from lapse.settings import load_settings as load_settings
from lapse.store import ConversationRepository as ConversationRepository
from lapse.store import Database as Database
from lapse.store import migrate as migrate
from lapse.worker import BackgroundWorker as BackgroundWorker
from lapse.worker import TaskMetrics as TaskMetrics
