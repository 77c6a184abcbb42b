#pragma once
inline void broken_task() { this does not compile }
