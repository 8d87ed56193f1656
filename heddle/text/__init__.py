"""Text on its way to the engine and back: tokens, chats, tool calls, streams. No torch."""
