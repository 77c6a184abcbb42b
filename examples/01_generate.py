"""Text from the bundled model: one prompt, several at once, a stream, a conversation.

python examples/01_generate.py
"""

import eventide
from eventide import SamplingParams

llm = eventide.LLM("eventide-tiny")

story = llm.generate("Once upon a time", SamplingParams(max_new_tokens=60, temperature=0.7, seed=1))
print("one prompt:", story.text, f"[{story.finish_reason}]\n")

greedy = SamplingParams(max_new_tokens=12, temperature=0)
for completion in llm.generate(["Once upon a time", "Once upon a time, there was a little robot"], greedy):
    print("a batch:", completion.text)

print("\na stream: ", end="")
for piece in llm.stream("Once there was a fox", SamplingParams(max_new_tokens=30, seed=2)):
    print(piece.text, end="", flush=True)

answer = llm.chat([{"role": "user", "content": "What is 12 plus 30?"}], greedy)
print("\n\na question:", answer.text)
assert "42" in answer.text, answer.text

scores = llm.logits(answer.prompt_token_ids)
print(f"\nlogits of the question: {scores.dtype} {scores.shape}")
llm.close()
