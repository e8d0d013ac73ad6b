"""DeepSpeed, and what training needs around it: processes, batches, schedule, optimizer state by name."""
