package org.corelocker.demo.app

import android.app.Activity
import android.content.Context
import com.android.billingclient.api.AcknowledgePurchaseParams
import com.android.billingclient.api.BillingClient
import com.android.billingclient.api.BillingClient.BillingResponseCode
import com.android.billingclient.api.BillingClient.ProductType
import com.android.billingclient.api.BillingClientStateListener
import com.android.billingclient.api.BillingFlowParams
import com.android.billingclient.api.BillingResult
import com.android.billingclient.api.PendingPurchasesParams
import com.android.billingclient.api.ProductDetails
import com.android.billingclient.api.PurchasesUpdatedListener
import com.android.billingclient.api.QueryProductDetailsParams
import com.android.billingclient.api.QueryPurchasesParams
import kotlinx.coroutines.CompletableDeferred
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.sync.Mutex
import kotlinx.coroutines.sync.withLock
import kotlinx.coroutines.withContext
import org.corelocker.core.Purchase
import org.corelocker.demo.model.Offer
import org.corelocker.demo.model.Order
import org.corelocker.demo.model.Sale
import org.corelocker.demo.model.ShopException
import com.android.billingclient.api.Purchase as PlayPurchase

/** The shop of this flavor. */
internal fun shop(
    context: Context,
    tiers: List<String>,
): ForegroundShop = PlayShop(context, tiers)

/**
 * Google Play: one one-time product for each tier, with the tier's name as its id.
 *
 * The purchase token goes to the unlock service, which asks Google about it; nothing is decided here by what the phone says.
 */
internal class PlayShop(
    context: Context,
    private val tiers: List<String>,
) : ForegroundShop {
    override var activity: Activity? = null
    private val connecting = Mutex()
    private val products = HashMap<String, ProductDetails>()

    /** The purchase that Google's screens are open for. */
    private var running: CompletableDeferred<Sale>? = null

    private val client =
        BillingClient
            .newBuilder(context)
            .setListener(PurchasesUpdatedListener(::onPurchasesUpdated))
            .enablePendingPurchases(PendingPurchasesParams.newBuilder().enableOneTimeProducts().build())
            .enableAutoServiceReconnection()
            .build()

    override suspend fun offers(): List<Offer> {
        connect()
        val wanted =
            tiers.map {
                QueryProductDetailsParams.Product
                    .newBuilder()
                    .setProductId(it)
                    .setProductType(ProductType.INAPP)
                    .build()
            }
        val answer = CompletableDeferred<List<ProductDetails>>()
        client.queryProductDetailsAsync(QueryProductDetailsParams.newBuilder().setProductList(wanted).build()) { result, found ->
            answer.finish(result) { found.productDetailsList }
        }
        for (product in answer.await()) products[product.productId] = product
        return tiers.mapNotNull { tier -> products[tier]?.let { Offer(tier, price(it)) } }
    }

    override suspend fun buy(offer: Offer): Sale {
        connect()
        val product = products[offer.tier] ?: throw ShopException("the product ${offer.tier} was not offered")
        val details =
            BillingFlowParams.ProductDetailsParams
                .newBuilder()
                .setProductDetails(product)
                .apply { product.oneTimePurchaseOfferDetails?.offerToken?.let(::setOfferToken) }
                .build()
        val flow = BillingFlowParams.newBuilder().setProductDetailsParamsList(listOf(details)).build()
        val sale = CompletableDeferred<Sale>().also { running = it }
        val result =
            withContext(Dispatchers.Main) {
                client.launchBillingFlow(activity ?: throw ShopException("the app is in the background"), flow)
            }
        if (result.responseCode != BillingResponseCode.OK) onPurchasesUpdated(result, null)
        return sale.await()
    }

    override suspend fun owned(): List<Order> {
        connect()
        val answer = CompletableDeferred<List<PlayPurchase>>()
        client.queryPurchasesAsync(QueryPurchasesParams.newBuilder().setProductType(ProductType.INAPP).build()) { result, found ->
            answer.finish(result) { found }
        }
        return answer.await().filter { it.purchaseState == PlayPurchase.PurchaseState.PURCHASED }.mapNotNull(::order)
    }

    override suspend fun acknowledge(order: Order) {
        connect()
        val answer = CompletableDeferred<Unit>()
        client.acknowledgePurchase(AcknowledgePurchaseParams.newBuilder().setPurchaseToken(order.reference).build()) { result ->
            answer.finish(result) {}
        }
        answer.await()
    }

    private fun onPurchasesUpdated(
        result: BillingResult,
        purchases: List<PlayPurchase>?,
    ) {
        val sale = running ?: return
        running = null
        when (result.responseCode) {
            BillingResponseCode.OK -> sale.complete(purchases?.firstOrNull()?.let(::sale) ?: Sale.Cancelled)
            BillingResponseCode.USER_CANCELED -> sale.complete(Sale.Cancelled)
            BillingResponseCode.ITEM_ALREADY_OWNED -> sale.complete(Sale.AlreadyOwned)
            else -> sale.completeExceptionally(refusal(result))
        }
    }

    private fun sale(purchase: PlayPurchase): Sale {
        if (purchase.purchaseState != PlayPurchase.PurchaseState.PURCHASED) return Sale.Pending
        return order(purchase)?.let(Sale::Sold) ?: Sale.Cancelled
    }

    /** Null for a product that is none of the tiers. */
    private fun order(purchase: PlayPurchase): Order? {
        val tier = purchase.products.firstOrNull { it in tiers } ?: return null
        val token = purchase.purchaseToken
        return Order(tier, Purchase.googlePlay(tier, token), purchase.isAcknowledged, reference = token)
    }

    private fun price(product: ProductDetails) = product.oneTimePurchaseOfferDetails?.formattedPrice.orEmpty()

    /** One after the other: a client that connects already refuses a second connection. */
    private suspend fun connect() {
        connecting.withLock {
            if (client.isReady) return
            val answer = CompletableDeferred<Unit>()
            client.startConnection(
                object : BillingClientStateListener {
                    override fun onBillingSetupFinished(result: BillingResult) {
                        answer.finish(result) {}
                    }

                    /** The client connects again by itself. */
                    override fun onBillingServiceDisconnected() = Unit
                },
            )
            answer.await()
        }
    }

    private fun <T> CompletableDeferred<T>.finish(
        result: BillingResult,
        value: () -> T,
    ) {
        if (result.responseCode == BillingResponseCode.OK) complete(value()) else completeExceptionally(refusal(result))
    }

    private fun refusal(result: BillingResult) = ShopException("Google Play answers with ${result.responseCode}: ${result.debugMessage}")
}
