"""A web application that keeps its conversations with lapse: `DATABASE_URL=… uvicorn fastapi_app:app`, in this folder.

Beside it, a worker pauses what is idle and ends what has expired: `DATABASE_URL=… lapse worker`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from lapse import (
    ConversationAlreadyOpenError,
    ConversationChangedError,
    ConversationExpiredError,
    ConversationNotFoundError,
    DatabaseUnavailableError,
    InvalidInputError,
    InvalidTransitionError,
    LapseError,
)
from lapse.aio import AsyncConversationService

# The first one that fits. Whatever else goes wrong is the server's fault.
STATUS_CODES: dict[type[LapseError], int] = {
    ConversationNotFoundError: 404,
    InvalidInputError: 422,
    ConversationAlreadyOpenError: 409,
    ConversationChangedError: 409,
    ConversationExpiredError: 409,
    InvalidTransitionError: 409,
    DatabaseUnavailableError: 503,  # a provider of webhooks tries again
}


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Hold one service for all requests; its connections are closed with the application."""
    async with AsyncConversationService() as service:  # of the setting DATABASE_URL
        app.state.conversations = service
        yield


app = FastAPI(lifespan=lifespan)


def get_service(request: Request) -> AsyncConversationService:
    """Return the application's service."""
    service: AsyncConversationService = request.app.state.conversations
    return service


Conversations = Annotated[AsyncConversationService, Depends(get_service)]


@app.exception_handler(LapseError)
async def explain(_request: Request, error: LapseError) -> JSONResponse:
    """Answer with the error's one line, which holds no address."""
    status = next((code for kind, code in STATUS_CODES.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, status)


class IncomingMessage(BaseModel):
    """What the provider sends. A real one signs it: check that before anything else."""

    sender: str = "user"
    from_number: str
    to_number: str
    channel: str = "whatsapp"
    message_id: str | None = None
    """The provider's: a message that it sends again is counted once."""


class Close(BaseModel):
    """How an agent ends a conversation."""

    status: str = "agent_closed"
    reason: str | None = None
    agent: str | None = None
    if_updated_at: datetime | None = None
    """As the agent has seen it: a customer who wrote since is not closed unread."""


class ConversationView(BaseModel):
    """A conversation as this application shows it: without addresses."""

    conv_id: UUID
    status: str
    updated_at: datetime
    context: dict[str, Any]


@app.post("/owners/{owner_id}/messages")
async def receive(owner_id: int, message: IncomingMessage, conversations: Conversations) -> ConversationView | None:
    """Record a message; the conversation that it belongs to is found or opened, if this sender's messages open one."""
    conversation = await conversations.record_message(
        owner_id,
        message.from_number,
        message.to_number,
        message.channel,
        message.sender,
        message_id=message.message_id,
    )
    return None if conversation is None else _view(conversation)


@app.get("/owners/{owner_id}/conversations")
async def active(owner_id: int, conversations: Conversations) -> list[ConversationView]:
    """Return what waits for an agent, the latest first."""
    return [_view(conversation) for conversation in await conversations.get_active_conversations(owner_id)]


@app.patch("/owners/{owner_id}/conversations/{conv_id}")
async def note(owner_id: int, conv_id: UUID, context: dict[str, Any], conversations: Conversations) -> ConversationView:
    """Keep something with a conversation: the step of a dialogue, say."""
    return _view(await conversations.update_conversation(conv_id, context=context, owner_id=owner_id))


@app.post("/owners/{owner_id}/conversations/{conv_id}/close")
async def close(owner_id: int, conv_id: UUID, how: Close, conversations: Conversations) -> ConversationView:
    """End a conversation, unless the customer has written since the agent looked."""
    return _view(
        await conversations.close_conversation(
            conv_id, how.status, how.reason, how.agent, owner_id=owner_id, if_updated_at=how.if_updated_at
        )
    )


def _view(conversation: Any) -> ConversationView:
    return ConversationView.model_validate(conversation, from_attributes=True)
