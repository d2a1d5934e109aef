/* The only C in Ringway: what Swift cannot import. One header a topic;
   every symbol is prefixed CPlat_. */
#pragma once
#include "CPlatAtomics.h"
#include "CPlatHints.h"
#include "CPlatSystem.h"
#include "CPlatSocket.h"
#include "CPlatVhost.h"
#include "CPlatGuard.h"
#include "CPlatSandbox.h"
#include "CPlatXDP.h"
