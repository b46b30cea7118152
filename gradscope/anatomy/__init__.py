"""Behind ``trace``: one training step taken apart, from the tensors of one real step."""
